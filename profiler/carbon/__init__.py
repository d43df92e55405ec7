"""What turns joules into grams, litres and money: given, packaged, read from a file, or asked for over the network.

    factors.py      CarbonFactors: everything a person can say of grid, building, device and price, checked
    series.py       carbon intensity over time, and what of a span it does not cover
    series_file.py  a series from CSV or Parquet
    live.py         the one source that needs a network; contacted only when asked
    footprints.py   embodied carbon of devices whose maker has published a number

Nothing here knows a run: `profiler.metrics.carbon` brings factors and energy together.
"""
