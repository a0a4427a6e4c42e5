# SPDX-License-Identifier: Apache-2.0
"""The soak: engines in processes under random calls and disturbances, every byte checked."""
