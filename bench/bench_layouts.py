"""Classes that are not adjacent in memory: on axis 1 of images, in Fortran order."""


def test_layout(time_case, case, contender):
    time_case(case, contender)
