"""The dashboard: shows stored runs, measures nothing and computes nothing.

    server.py       the web application: refuses requests that are not meant for this host
    app.py          the router
    views/          one file a page: runs, run, scale. Not called "pages": beside the main script, Streamlit takes
                    a folder of that name for pages without a router, until the router has run once
    run_*.py        the parts of a run's page
    sidebar.py      carbon factors, shared by the pages
    charts.py       a chart in its box
    tables.py       tables that sort by numbers and show texts
    kinds.py        workload and preset of points
    data.py         stored runs and their tables, cached while the runs folder stays as it is
    plain.py        other people's text, made safe to show

Start it with `joulescale dashboard`, which binds it to this machine only.
"""
