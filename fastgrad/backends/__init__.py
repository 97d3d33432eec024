"""What programs ask of, and set on, libraries for GPUs: there are none."""

from fastgrad.backends import cuda as cuda
from fastgrad.backends import cudnn as cudnn
from fastgrad.backends import mps as mps
