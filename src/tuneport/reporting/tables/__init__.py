"""What a page says: tables and sentences, before they are put into a form."""
