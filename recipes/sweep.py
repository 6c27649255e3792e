"""Many runs and one table: the command `python -m keras_robustlt sweep`.

python recipes/sweep.py --data=digitslt --methods=at,at_bsl --seeds=102,103,104
"""

import sys

from keras_robustlt import __main__ as command_line

if __name__ == "__main__":
    sys.argv.insert(1, "sweep")
    command_line.run()
