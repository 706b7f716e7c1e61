class ConditionalPosition:
    pass


class LocalConcentration:
    pass
