# SPDX-License-Identifier: Apache-2.0
"""What makes a release and tries it: wheels, clean roots, the promise of the ABI."""
