"""Reports: what figures look like, on a page that holds everything it needs, in a notebook, as plots.

Data flows one way: a score card -> `score.score_page` -> a `page.Page` of tiles, plots and tables -> HTML (`page`) and
image files (`plots`). Other commands build a `Page` of their own. Nothing here reads files or knows the command line.
"""
