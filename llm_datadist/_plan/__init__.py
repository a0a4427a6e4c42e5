# SPDX-License-Identifier: Apache-2.0
"""A deployment of prompts and decoders on paper: published fabrics, and a simulation of
transfers over them. Nothing here is used by a transfer.
"""
