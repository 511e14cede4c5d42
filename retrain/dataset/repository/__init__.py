"""Git and DVC: the folder that keeps the versions, and everything that runs a program in it."""
