"""What operators do: every command of the program, run as they run it."""
