# SPDX-License-Identifier: Apache-2.0
"""The part of the package that knows cffi and the C ABI; elsewhere only ``doctor`` asks cffi
for the version of the ABI.
"""
