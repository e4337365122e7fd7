"""What `bench_latency.py` sends beside skinml: stock apps that carry bytes and do nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server, client = ServerApp(), ClientApp()


def load(num_bytes: int) -> ArrayRecord:
    """Make arrays of some bytes, never the same, for Flower stores what is the same once."""
    drawn = np.random.default_rng().integers(0, 256, max(num_bytes, 1), dtype=np.uint8)
    return ArrayRecord({"load": Array(drawn)})


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Send messages to all nodes, one after another, and write down how long each took."""
    config = context.run_config
    nodes: list[int] = []
    while len(nodes) < int(config["nodes"]):
        nodes = sorted(grid.get_node_ids())
        time.sleep(0.2)
    seconds, answers = [], []
    for number in range(int(config["messages"])):
        began = time.monotonic()
        told = ConfigRecord({"up": int(config["up"]), "number": number})
        contents = {
            node: RecordDict({"load": load(int(config["down"])), "told": told}) for node in nodes
        }
        messages = [Message(content, node, "train") for node, content in contents.items()]
        replies = list(grid.send_and_receive(messages))
        seconds.append(time.monotonic() - began)
        times = {str(each.metadata.src_node_id): each.content["times"] for each in replies}
        answers.append({node: (each["began"], each["answered"]) for node, each in times.items()})
    out = Path(str(config["out"]))
    draft = out.with_suffix(".part")
    draft.write_text(json.dumps({"seconds": seconds, "answers": answers}))
    draft.replace(out)


@client.train()
def answer(message: Message, context: Context) -> Message:
    """Answer with bytes, and with the time."""
    del context
    began = time.time()
    content = RecordDict({"load": load(int(message.content["told"]["up"]))})
    content["times"] = MetricRecord({"began": began, "answered": time.time()})
    return Message(content, reply_to=message)
