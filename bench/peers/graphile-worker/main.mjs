// Queues jobs that do nothing, works them off with graphile-worker, and prints how many seconds that took.
//
// Settings are those of graphile-worker's own performance test, in as many processes as were asked for. In mode buffered each
// process fetches 500 jobs at once into a queue of its own and stores completions together; in mode durable, its default, each
// job is fetched and completed by itself.
import { fork } from "node:child_process";
import { parseArgs } from "node:util";
import { Logger, makeWorkerUtils, runOnce } from "graphile-worker";

const { values } = parseArgs({
  options: {
    jobs: { type: "string", default: "10000" },
    mode: { type: "string", default: "durable" },
    processes: { type: "string", default: "2" },
    concurrency: { type: "string", default: "24" },
    child: { type: "boolean", default: false },
  },
});
const concurrency = Number(values.concurrency);
const buffered = {
  localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};
const options = {
  logger: new Logger(() => (level, message) => {
    if (level === "error") console.error(message);
  }),
  preset: {
    worker: {
      connectionString: process.env.BENCH_DATABASE_URL,
      concurrentJobs: concurrency,
      maxPoolSize: concurrency + 1,
      ...(values.mode === "buffered" ? buffered : {}),
    },
  },
};

async function work() {
  process.send("ready");
  await new Promise((resolve) => process.once("message", resolve));
  await runOnce({ ...options, taskList: { nothing: async () => {} } });
  process.disconnect();
}

function started() {
  const child = fork(process.argv[1], [...process.argv.slice(2), "--child"]);
  const ended = new Promise((resolve, reject) =>
    child.once("exit", (code) => (code === 0 ? resolve() : reject(new Error(`a worker ended with ${code}`)))),
  );
  return new Promise((resolve) => child.once("message", () => resolve({ child, ended })));
}

async function main() {
  const jobs = Number(values.jobs);
  const utils = await makeWorkerUtils(options);
  await utils.migrate();
  for (let first = 0; first < jobs; first += 1000) {
    const some = Array.from({ length: Math.min(1000, jobs - first) }, (_, at) => ({
      identifier: "nothing",
      payload: { num: first + at },
    }));
    await utils.addJobs(some);
  }
  const count = async () => {
    const found = await utils.withPgClient((client) => client.query("select count(*)::int as n from graphile_worker._private_jobs"));
    return found.rows[0].n;
  };
  const queued = await count();
  await utils.withPgClient((client) => client.query("vacuum (analyze) graphile_worker._private_jobs"));
  const workers = await Promise.all(Array.from({ length: Number(values.processes) }, started));
  const begun = process.hrtime.bigint();
  for (const { child } of workers) child.send("go");
  await Promise.all(workers.map(({ ended }) => ended));
  const seconds = Number(process.hrtime.bigint() - begun) / 1e9;
  console.log(JSON.stringify({ jobs: queued - (await count()), seconds }));
  await utils.release();
}

await (values.child ? work() : main());
