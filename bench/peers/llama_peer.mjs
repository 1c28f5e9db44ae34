// SPDX-License-Identifier: Apache-2.0
// llama.cpp (through node-llama-cpp) on the CPU, the file mapped: its default.
//
//     node llama_peer.mjs NODE_DIR MODEL.gguf IDS.json [threads=2] [tokens=5]
//
// NODE_DIR is where `npm install` put node_modules. A JSON object per phase and token, as clock.py.
import fs from 'fs';
import path from 'path';
import {pathToFileURL} from 'url';

const [, , nodeDir, model, idsPath, threads = '2', tokens = '5'] = process.argv;

function now() {
    return {
        s: performance.now() / 1000,
        readBytes: Number(/^read_bytes: (\d+)/m.exec(fs.readFileSync('/proc/self/io', 'utf8'))[1]),
        majflt: Number(fs.readFileSync('/proc/self/stat', 'utf8').split(') ')[1].split(' ')[9])
    };
}

let at = now();
function done(what, more = {}) {
    const to = now();
    console.log(JSON.stringify({what, s: to.s - at.s, read_bytes: to.readBytes - at.readBytes,
        majflt: to.majflt - at.majflt, ...more}));
    at = now();
}

const entry = path.resolve(nodeDir, 'node_modules', 'node-llama-cpp', 'dist', 'index.js');
const {getLlama} = await import(pathToFileURL(entry).href);
const llama = await getLlama(
    {gpu: false, build: 'never', logLevel: 'error', maxThreads: Number(threads)});
done('import');
const loaded = await llama.loadModel({modelPath: model, gpuLayers: 0, useMmap: true,
    checkTensors: false, ignoreMemorySafetyChecks: true});
const context = await loaded.createContext({contextSize: 128, batchSize: 32,
    threads: Number(threads), ignoreMemorySafetyChecks: true});
done('load');
const ids = JSON.parse(fs.readFileSync(idsPath, 'utf8'));
let count = 0;
for await (const id of context.getSequence().evaluate(ids, {temperature: 0, yieldEogToken: true})) {
    done('token', {id});
    if (++count >= Number(tokens))
        break;
}
process.exit(0);
