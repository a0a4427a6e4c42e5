# SPDX-License-Identifier: Apache-2.0
"""What the commands and the benchmarks share, below both of them."""
