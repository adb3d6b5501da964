"""The accuracy dossier: errors of every function, measured over all inputs or searched for, beside other libraries'.

`bash ci/accuracy.sh` runs it. The oracles (oracles.py; mpmath for what is recorded) share no code with fastxent.
"""
