"""One module for each runtime; imported in the child process only, each by the interpreter that has it."""
