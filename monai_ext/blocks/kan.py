class KANMLP:
    pass
