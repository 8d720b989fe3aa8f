"""Make one report page from results."""
