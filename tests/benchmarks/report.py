def draw(results, page):
    pass
