"""The dashboard: shows stored runs, measures nothing and computes nothing.

    server.py       the web application: refuses requests that are not meant for this host
    app.py          the router: pages and the sidebar
    pages/          one file a page: runs, run, scale
    data.py         stored runs and their tables, cached while the runs folder stays as it is
    plain.py        other people's text, made safe to show

Start it with `joulescale dashboard`, which binds it to this machine only.
"""
