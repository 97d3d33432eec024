"""The command line: ``fastgrad fit``, ``fastgrad predict``, ``fastgrad info``.

Read from main.py down: it parses arguments and runs a command. data.py reads the user's files, problem.py turns
a table into a learning problem (task, split, standardisation), train.py fits the model, store.py writes and reads
the model file, report.py is what the user sees. errors.py holds the one exception that becomes a sentence.
"""
