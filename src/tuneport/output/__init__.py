"""A folder in the making: lock, journal, resume, atomic finish, replacing."""
