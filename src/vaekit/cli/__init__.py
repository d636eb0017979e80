"""The command line: the only place that parses arguments and prints. torch is imported inside the commands."""
