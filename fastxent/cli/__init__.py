"""The command line: arguments, progress, tables for people, exit codes."""
