"""Runs studies: grids of training runs, one table, one page."""
