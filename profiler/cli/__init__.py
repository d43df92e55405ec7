"""The `joulescale` command, one file a verb."""
