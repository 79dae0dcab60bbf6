// Submits a deployment and follows it to its end, or cancels one:
//
//   node deploy.mjs CLUSTER_ID SNAPSHOT.json [DEPLOYMENT_ID]
//   node deploy.mjs cancel DEPLOYMENT_ID [REASON]
//
// The database and the portal's role come from DATABASE_URL, or from PGHOST, PGUSER and so on.
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { v7 as uuidv7 } from 'uuid'

const ENDED = ['SUCCESS', 'FAILED', 'CANCELLED']

/** Queues a deployment once, however often it is sent with the same id. */
export async function submit(db, id, clusterId, snapshot) {
  await db.query(
    `INSERT INTO tendril.deployments (id, cluster_id, config_snapshot) VALUES ($1, $2, $3)
     ON CONFLICT (id) DO NOTHING`,
    [id, clusterId, snapshot],
  )
  const { rows } = await db.query('SELECT status FROM tendril.deployments WHERE id = $1', [id])
  if (rows.length === 0) throw new Error(`deployment ${id} is somebody else's: make a new id`)
  return rows[0].status
}

/** Yields the deployment's state and the log chunks that came since, again and again, until all has been read. */
export async function* follow(db, id) {
  // A vector, since each attempt counts its records from 0: { attempt_id: last record that was read }
  const position = {}
  for (let quiet = 0; quiet <= 20; ) {
    // The state first: what it says about the logs' ends is then older than the rows that are read after it.
    const { rows: [{ state }] } = await db.query('SELECT tendril.status($1) AS state', [id])
    const { rows: chunks } = await db.query('SELECT * FROM tendril.logs_after($1, $2)', [id, position])
    for (const chunk of chunks) position[chunk.attempt_id] = Number(chunk.seq_to)
    yield { state, chunks }
    if (chunks.length > 0) continue
    if (ENDED.includes(state.status)) {
      const isRead = (log) => log.log_end !== null && (position[log.attempt_id] ?? -1) >= log.log_end
      if (state.logs.every((log) => log.log_state !== 'open' || isRead(log))) return
      // The log of a runner that was lost may come hours later: nobody waits for that here.
      quiet += 1
    }
    await sleep(500)
  }
}

/** Cancels at once what waits; asks what runs to stop. */
export async function cancel(db, id, reason) {
  const { rows } = await db.query('SELECT tendril.cancel($1, $2) AS status', [id, reason])
  return rows[0].status
}

async function main(db, [first, second, third]) {
  if (first === 'cancel') {
    console.log(await cancel(db, second, third ?? 'cancelled from Node'))
    return 0
  }
  const id = third ?? uuidv7()
  console.error(`deployment ${id}`)
  await submit(db, id, first, JSON.parse(await readFile(second, 'utf8')))
  let last = {}
  for await (const { state, chunks } of follow(db, id)) {
    if (state.status !== last.status || state.waiting_for !== last.waiting_for) {
      console.error(state.waiting_for ? `${state.status}, waits for ${state.waiting_for}` : state.status)
    }
    for (const { log_chunk } of chunks) process.stdout.write(log_chunk)
    last = state
  }
  if (last.error_message) console.error(last.error_message)
  if (last.outputs) console.error(last.outputs)
  return last.status === 'SUCCESS' ? 0 : 1
}

const db = new pg.Client({ connectionString: process.env.DATABASE_URL })
await db.connect()
try {
  process.exitCode = await main(db, process.argv.slice(2))
} catch (error) {
  // TD001 to TD013 are Tendril's own; TD001 lists every wrong key in its detail.
  if (!error.code?.startsWith('TD')) throw error
  const problems = error.detail ? JSON.parse(error.detail) : []
  console.error(`refused (${error.code}): ${error.message}${error.hint ? `; ${error.hint}` : ''}`)
  for (const { path, message } of problems) console.error(`  ${path}: ${message}`)
  process.exitCode = 2
} finally {
  await db.end()
}
