"""What the commands do: one file, one function, one command of the same name."""
