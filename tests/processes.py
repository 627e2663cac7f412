"""Real processes in a torch.distributed group, which run the functions of a test one by one.

Functions and arguments travel by pickle: the functions have to stand at the top of a module.
"""

import multiprocessing
import pickle
import tempfile
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

SECONDS = 240  # until a test that hangs fails, on a machine busy with other things


def serve(connection, rank, world, file):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{file}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=SECONDS),
    )
    while (call := connection.recv()) is not None:
        try:
            function, arguments = pickle.loads(call)
            answer = pickle.dumps(function(*arguments)), None
        except Exception:
            answer = None, traceback.format_exc()
        connection.send(answer)
    dist.destroy_process_group()


class Processes:
    """``world`` processes; :meth:`run` calls a function in each and returns what they return."""

    def __init__(self, world, folder):
        self.world, self.folder, self.members = world, folder, []

    def run(self, function, *arguments, of_rank=None):
        """``function(*arguments)``, with ``of_rank[rank]`` before the others where it is given."""
        if not self.members:
            self._start()
        try:
            return self._answers(function, arguments, of_rank)
        except BaseException:
            # Some may still be at work, and their answers no answers to the next call.
            self._kill()
            raise

    def stop(self):
        for process, connection in self.members:
            connection.send(None)
            process.join(SECONDS)
        self._kill()

    def _start(self):
        context = multiprocessing.get_context("spawn")
        store = tempfile.mktemp(dir=self.folder)
        for rank in range(self.world):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, self.world, store)
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            self.members.append((process, ours))

    def _answers(self, function, arguments, of_rank):
        for rank, (_, connection) in enumerate(self.members):
            own = () if of_rank is None else (of_rank[rank],)
            # Pickled here: multiprocessing's own way would share the memory of tensors.
            connection.send(pickle.dumps((function, (*own, *arguments))))
        results = []
        for _, connection in self.members:
            assert connection.poll(SECONDS), "a process does not answer"
            answer, error = connection.recv()
            assert error is None, error
            results.append(pickle.loads(answer))
        return results

    def _kill(self):
        for process, _ in self.members:
            process.kill()
        self.members = []
