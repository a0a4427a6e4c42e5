# SPDX-License-Identifier: Apache-2.0
"""What one could use instead of this package, on the same work. See ../README.md."""
