// The same with supabase-js, in a browser or on a server. Not run by our tests: it needs a Supabase project, where
//
// - the schema `tendril` is exposed (Settings, API, "Exposed schemas"),
// - the role was let in: tendril-broker portal grant authenticated --scope own
//   (clusters whose user_id is auth.uid(); `tendril-broker cluster create NAME --user-id UID` makes one),
// - Realtime follows the table: ALTER PUBLICATION supabase_realtime ADD TABLE tendril.deployments.
import { createClient } from '@supabase/supabase-js'
import { v7 as uuidv7 } from 'uuid'

const ENDED = ['SUCCESS', 'FAILED', 'CANCELLED']

export const tendril = (url, key) => createClient(url, key, { db: { schema: 'tendril' } })

/** Queues a deployment once, however often it is sent with the same id. */
export async function submit(db, clusterId, snapshot, id = uuidv7()) {
  const row = { id, cluster_id: clusterId, config_snapshot: snapshot }
  // ON CONFLICT (id) DO NOTHING
  const { error } = await db.from('deployments').upsert(row, { onConflict: 'id', ignoreDuplicates: true })
  if (error) throw refused(error)
  const { data } = await db.from('deployments').select('id, status').eq('id', id).maybeSingle().throwOnError()
  if (!data) throw new Error(`deployment ${id} is somebody else's: make a new id`)
  return data
}

/** PostgREST hands on the SQLSTATE as `code`, and the list of wrong keys as `details`. */
function refused(error) {
  const problems = error.code === 'TD001' && error.details ? JSON.parse(error.details) : []
  return Object.assign(new Error(error.message), { code: error.code, hint: error.hint, problems })
}

/** Calls `onChange` with the row whenever it changes; returns a function that stops it. Realtime applies the policies. */
export function watchStatus(db, id, onChange) {
  const filter = { event: 'UPDATE', schema: 'tendril', table: 'deployments', filter: `id=eq.${id}` }
  const channel = db.channel(`deployment-${id}`).on('postgres_changes', filter, ({ new: row }) => onChange(row))
  channel.subscribe()
  return () => db.removeChannel(channel)
}

/** Yields log chunks until the deployment has ended and all of them have been read. */
export async function* logLines(db, id) {
  // A vector, since each attempt counts its records from 0: { attempt_id: last record that was read }
  const position = {}
  for (let quiet = 0; quiet <= 20; ) {
    // The state first: what it says about the logs' ends is then older than the rows that are read after it.
    const { data: state } = await db.rpc('status', { p_deployment: id }).throwOnError()
    const { data: chunks } = await db.rpc('logs_after', { p_deployment: id, p_position: position }).throwOnError()
    for (const chunk of chunks) position[chunk.attempt_id] = chunk.seq_to
    yield* chunks
    if (chunks.length > 0) continue
    if (ENDED.includes(state.status)) {
      const isRead = (log) => log.log_end !== null && (position[log.attempt_id] ?? -1) >= log.log_end
      if (state.logs.every((log) => log.log_state !== 'open' || isRead(log))) return
      quiet += 1
    }
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
}

/** Cancels at once what waits; asks what runs to stop. */
export async function cancel(db, id, reason) {
  const { data } = await db.rpc('cancel', { p_deployment: id, p_reason: reason }).throwOnError()
  return data
}
