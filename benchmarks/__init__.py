"""What is measured, never asserted; each module prints a table and writes JSON."""
