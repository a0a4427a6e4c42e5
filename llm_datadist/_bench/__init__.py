# SPDX-License-Identifier: Apache-2.0
"""What ``llm-datadist bench`` measures with."""
