// Follows the log of one deployment with supabase-js: Realtime events at once, and `tendril.tail` for what they left out.
import { LogMerge } from './log-merge.mjs'

const QUIET_MS = 5000
const SOON_MS = 250
const RENEW_MS = 30_000

/**
 * Calls `show(chunk)` in order, each chunk once, and resolves at the end of the log to how it ended: `complete`; `incomplete`, when a
 * lost runner left it without its end; `archived`, when the database no longer has all of it.
 */
export async function followLog(db, deployment, show, signal) {
  const merge = new LogMerge()
  let wake = () => {}
  const rest = (ms) => new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    wake = () => (clearTimeout(timer), resolve())
  })
  // Subscribe first, then read: what is stored in between comes twice rather than never.
  const events = { event: 'INSERT', schema: 'tendril', table: 'live_logs', filter: `deployment_id=eq.${deployment}` }
  const channel = db.channel(`log-${deployment}`).on('postgres_changes', events, ({ new: row }) => {
    merge.event(row).forEach(show)
    if (merge.hasGap()) setTimeout(() => wake(), SOON_MS)
  })
  channel.subscribe((state) => state === 'SUBSCRIBED' && wake())
  signal?.addEventListener('abort', () => wake())
  let renewAt = 0
  try {
    while (!signal?.aborted) {
      if (Date.now() >= renewAt) {
        // Too many watches (TD011) is no reason to stop: polling alone shows the same, a little later.
        await db.rpc('watch_logs', { p_deployment: deployment })
        renewAt = Date.now() + RENEW_MS
      }
      const { data, error } = await db.rpc('tail', { p_deployments: [deployment], p_position: merge.position() })
      if (error?.code?.startsWith('TD')) throw Object.assign(new Error(error.message), { code: error.code })
      const rows = data ?? []
      merge.page(rows).forEach(show)
      const end = rows.find((row) => row.attempt_id === null)
      if (end) return end.at_end
      if (rows.some((row) => row.seq !== null)) continue
      // tail never says that an archived log is all: it may be a plan's, whose apply still waits for an approval.
      if (rows.some((row) => row.at_end === 'archived') && (await isOver(db, deployment, merge))) return 'archived'
      await rest(QUIET_MS)
    }
  } finally {
    db.removeChannel(channel)
  }
}

/** Whether nothing more comes: the deployment has ended, and the log of each attempt. */
async function isOver(db, deployment, merge) {
  const { data: state } = await db.rpc('status', { p_deployment: deployment })
  return Boolean(state?.ended_at) && state.logs.every((log) => merge.ended(log.attempt_id))
}
