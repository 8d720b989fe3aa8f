"""Write an output folder: lock, journal, resume, atomic finish, replacing."""
