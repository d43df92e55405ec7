"""The reference workloads, run and written down.

jobs       what is to be run, and running it: each run in a process of its own, through the command
board      the progress of all of them
scaling    the verdict of lm's sweep, which no single run has
page       the results as JSON and as a page
"""
