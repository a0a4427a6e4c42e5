# SPDX-License-Identifier: Apache-2.0
"""The command line: each module is one subcommand with ``add_arguments`` and ``run``."""
