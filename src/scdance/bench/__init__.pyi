from ._board import differences as differences
from ._board import leaderboard as leaderboard
from ._board import measured as measured
from ._board import read as read
from ._board import summary as summary
from ._demo import demo as demo
from ._golden import plan as plan
from ._run import run as run
