"""Tokens per second of native llama.cpp: python rival.py MODEL PREDICT THREADS.

For each line on stdin, the prompt's token ids, one round; a line of JSON with its speeds goes to stdout."""

import json, sys, time

import llama_cpp as C

model_path, predict, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
quiet = C.llama_log_callback(lambda *_: None)
C.llama_log_set(quiet, None)
C.llama_backend_init()
model = C.llama_model_load_from_file(model_path.encode(), C.llama_model_default_params())
params = C.llama_context_default_params()
params.n_ctx, params.n_threads, params.n_threads_batch = 4096, threads, threads
context = C.llama_init_from_model(model, params)
vocabulary = C.llama_vocab_n_tokens(C.llama_model_get_vocab(model))


def decode(tokens):
    array = (C.llama_token * len(tokens))(*tokens)
    for start in range(0, len(tokens), 512):
        part = (C.llama_token * min(512, len(tokens) - start))(*array[start : start + 512])
        if C.llama_decode(context, C.llama_batch_get_one(part, len(part))):
            raise RuntimeError("llama_decode failed")
    C.llama_synchronize(context)


for line in sys.stdin:
    prompt = json.loads(line)
    C.llama_memory_clear(C.llama_get_memory(context), True)
    start = time.perf_counter()
    decode(prompt)
    prompted = time.perf_counter()
    # Any token takes as long as another; choosing one is not measured.
    for step in range(predict - 1):
        decode([prompt[step % len(prompt)]])
    done = time.perf_counter()
    speeds = dict(prompt=len(prompt) / (prompted - start), predicted=(predict - 1) / (done - prompted))
    print(json.dumps(speeds), flush=True)
