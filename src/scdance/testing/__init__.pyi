from ._check_method import CHECKS as CHECKS
from ._check_method import CheckFailed as CheckFailed
from ._check_method import Trial as Trial
from ._check_method import check_method as check_method
