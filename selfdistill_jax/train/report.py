def write_report(workdir, *, config, collection, systems, text):
    pass
