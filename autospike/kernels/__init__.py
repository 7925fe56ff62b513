"""C kernels as operators of torch: `operator.py` says how, `build.py` compiles them, one C and one Python file for each."""
