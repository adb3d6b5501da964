"""fastxent against the other libraries installed, and against the speed at which the same bytes can be read.

``fastxent bench`` prints it; bench/ tracks the same cases with pytest-benchmark. `cases` is the table of what is
measured and what it should reach, `contenders` how each library computes it, `references` the reads and copies that
nothing can beat, `measuring` the clock, `judging` the verdicts, `machine`, `tables` and `charts` what is shown;
`scaling` and `crossover` are other questions: how time grows with rows, classes and threads, and from how many classes
on a row is computed alone.
"""
