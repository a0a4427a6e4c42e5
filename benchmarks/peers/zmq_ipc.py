# SPDX-License-Identifier: Apache-2.0
"""What is written first: ZeroMQ; the owner gathers into one message, the puller scatters it."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import zmq

from llm_datadist._bench.work import Work
from llm_datadist.testing.memory import words_at
from llm_datadist.testing.pattern import Blocks

from . import arenas


class Owner(arenas.Owner):
    def info(self) -> str:
        # Abstract: there is no file that could stay.
        url = f"ipc://@llm-datadist-peers-{os.getpid()}"
        socket = zmq.Context.instance().socket(zmq.REP)
        socket.bind(url)
        threading.Thread(target=self._serve, args=(socket,), daemon=True).start()
        return url

    def _serve(self, socket: Any) -> None:
        memory = words_at(self.address, self.size // 8)
        while True:
            size, numbers = socket.recv_multipart()
            words = int(size) // 8
            blocks = memory[: len(memory) // words * words].reshape(-1, words)
            socket.send(blocks[np.frombuffer(numbers, np.int64)], copy=False)


class Puller(arenas.Puller):
    def attach(self, owner: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.REQ)
        self._socket.connect(owner)

    def begin_work(self, work: Work, theirs: list[int]) -> None:
        self._to = self.own_blocks(work)
        self._size = str(work.block_bytes).encode()

    def prepare(self, src: Blocks, dst: Blocks, size: int) -> Any:
        return self.numbers(src, dst, size, np.int64)

    def pull(self, prepared: Any) -> None:
        theirs, numbers = prepared
        self._socket.send_multipart([self._size, theirs.tobytes()])
        answer = np.frombuffer(self._socket.recv(copy=False).buffer, np.uint64)
        self._to[numbers] = answer.reshape(len(numbers), -1)
