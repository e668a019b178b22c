// Chunks of 100 rows [n, n + 0.5, n + 0.25]: by the package npyjs, and by a stream of Buffers.
import { createWriteStream, writeFileSync } from "node:fs";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { dump } from "npyjs";

const dataset = process.argv[2];
const rows = (first) =>
  Float64Array.from({ length: 300 }, (_, k) => first + Math.floor(k / 3) + [0, 0.5, 0.25][k % 3]);

writeFileSync(join(dataset, "npyjs.npy"), new Uint8Array(dump(rows(0), [100, 3])));

const text = "{'descr': '<f8', 'fortran_order': False, 'shape': (100, 3), }".padEnd(117) + "\n";
const stream = createWriteStream(join(dataset, "stream.npy"), { highWaterMark: 512 });
stream.write(Buffer.from("\x93NUMPY\x01\x00\x76\x00", "latin1"));
stream.write(text);
for (const number of rows(100)) {
  const item = Buffer.alloc(8);
  item.writeDoubleLE(number);
  stream.write(item);
}
stream.end();
await finished(stream);
