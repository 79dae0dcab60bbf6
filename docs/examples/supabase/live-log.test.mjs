// Run by `node --test`. Events are dropped, doubled, shuffled and cut short at random; what is shown has to be what was stored.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as settled } from 'node:timers/promises'
import { followLog } from './live-log.mjs'
import { LogMerge } from './log-merge.mjs'

/** The same numbers for the same seed. */
const random = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}

const chunk = (attempt, seq, seq_to = seq) => ({ attempt_id: attempt, seq, seq_to, log_chunk: `${attempt} ${seq}-${seq_to}\n`, stream: 'stdout' })

const texts = (rows) => rows.map((row) => row.log_chunk).join('')

/** Chunks of an attempt, of one to three records each. */
function stored(attempt, count, dice) {
  const rows = []
  for (let seq = 0; rows.length < count; ) {
    const seq_to = seq + Math.floor(dice() * 3)
    rows.push(chunk(attempt, seq, seq_to))
    seq = seq_to + 1
  }
  return rows
}

/** What `tendril.tail` would answer. */
const tail = (rows, position, limit) => rows.filter((row) => row.seq > (position[row.attempt_id] ?? -1)).slice(0, limit)

for (let seed = 1; seed <= 300; seed += 1) {
  test(`whatever happens to events, each chunk is shown once and in order: seed ${seed}`, () => {
    const dice = random(seed)
    const merge = new LogMerge({ early: 1 + Math.floor(dice() * 20) })
    const attempts = ['a', 'b', 'c'].map((name) => stored(name, 40, dice))
    const all = attempts.flat()
    const shown = []
    const loss = dice()
    const there = []
    for (let turn = 0; turn < 200; turn += 1) {
      // Some more is stored, and its events are on their way.
      const next = attempts[Math.floor(dice() * 3)].find((row) => !there.includes(row))
      if (next) there.push(next)
      const row = there[there.length - 1 - Math.floor(dice() * Math.min(there.length, 8))]
      if (dice() >= loss) shown.push(...merge.event(dice() < 0.1 ? { ...row, log_chunk: undefined } : { ...row }))
      if (dice() < 0.1) {
        // The answer to a poll may come after events that overtook it.
        const page = tail(there, merge.position(), 1 + Math.floor(dice() * 10))
        if (dice() < 0.5) shown.push(...merge.event({ ...row }))
        shown.push(...merge.page(page))
      }
    }
    for (let page; (page = tail(all, merge.position(), 7)).length > 0; ) shown.push(...merge.page(page))
    for (const rows of attempts) {
      const mine = shown.filter((row) => row.attempt_id === rows[0].attempt_id)
      assert.deepEqual(mine.map((row) => row.log_chunk), rows.map((row) => row.log_chunk))
    }
    assert.equal(merge.hasGap(), false)
  })
}

test('an event that overtakes is kept until what is in front of it comes', () => {
  const merge = new LogMerge()
  assert.deepEqual(merge.event(chunk('a', 2, 3)), [])
  assert.equal(merge.hasGap(), true)
  assert.deepEqual(merge.position(), {})
  assert.deepEqual(merge.event(chunk('a', 0, 1)).map((row) => row.seq), [0, 2])
  assert.deepEqual(merge.position(), { a: 3 })
  assert.equal(merge.hasGap(), false)
})

test('what is no chunk is left to polling', () => {
  const merge = new LogMerge()
  for (const bad of [null, {}, { ...chunk('a', 0, 0), log_chunk: null }, { ...chunk('a', 0, 0), seq: '0' }, chunk('a', 3, 2), chunk('a', 0.5, 1)]) {
    assert.deepEqual(merge.event(bad), [])
  }
  assert.deepEqual(merge.position(), {})
})

test('the end of a log is known from a page alone', () => {
  const merge = new LogMerge()
  merge.page([chunk('a', 0, 0), { attempt_id: 'a', seq: null, at_end: 'complete' }, { attempt_id: null, seq: null, at_end: 'complete' }])
  assert.equal(merge.ended('a'), 'complete')
  assert.equal(merge.ended('b'), null)
})

/** A database as supabase-js shows it, and the clock: time passes where nothing else is to be done, from timer to timer. */
class World {
  now = 0
  timers = []
  stored = []
  logs = {} // attempt -> { log_end, log_state }, as in tendril.status
  ended_at = null
  away = false
  asked = []
  channels = 0

  constructor() {
    globalThis.setTimeout = (then, ms) => this.at(this.now + ms, then)
    globalThis.clearTimeout = (timer) => (this.timers = this.timers.filter((other) => other !== timer))
    Date.now = () => this.now
  }

  at(ms, then) {
    const timer = { ms, then }
    this.timers.push(timer)
    return timer
  }

  /** Follows to the end, or as long as `ms`. */
  async follow({ ms = 3_600_000, signal } = {}) {
    const shown = []
    const done = { shown }
    const following = followLog(this, 'd', (row) => shown.push(row), signal)
    following.then((end) => Object.assign(done, { end, ms: this.now }), (error) => Object.assign(done, { error, ms: this.now }))
    for (;;) {
      await settled()
      const next = this.timers.reduce((first, timer) => (first && first.ms <= timer.ms ? first : timer), null)
      if ('ms' in done || !next || next.ms > ms) return done
      clearTimeout(next)
      this.now = Math.max(this.now, next.ms)
      next.then()
    }
  }

  /** When it was asked for this. */
  polls(name = 'tail') {
    return this.asked.filter((one) => one.name === name).map((one) => one.ms)
  }

  store(...rows) {
    for (const row of rows) this.logs[row.attempt_id] ??= { log_end: null, log_state: 'open' }
    this.stored.push(...rows)
  }

  /** All is stored and the deployment has ended. */
  end() {
    for (const [id, log] of Object.entries(this.logs)) {
      const last = this.stored.findLast((row) => row.attempt_id === id)
      if (log.log_state === 'open') Object.assign(log, { log_end: last?.seq_to ?? -1, log_state: 'complete' })
    }
    this.ended_at = 'now'
  }

  channel() {
    this.channels += 1
    const channel = {
      on: (_kind, _filter, hear) => ((this.event = (row) => hear({ new: row })), channel),
      subscribe: (tell) => tell('SUBSCRIBED'),
    }
    return channel
  }

  removeChannel() {
    this.channels -= 1
  }

  async rpc(name, given) {
    this.asked.push({ name, ms: this.now })
    const error = this.away ? { code: '', message: 'TypeError: fetch failed' } : this.refuses?.(name)
    return error ? { data: null, error } : { data: this[name]?.(given) ?? null, error: null }
  }

  status() {
    return { ended_at: this.ended_at, logs: Object.entries(this.logs).map(([attempt_id, log]) => ({ attempt_id, ...log })) }
  }

  tail({ p_position }) {
    const page = this.stored.filter((row) => row.seq > (p_position[row.attempt_id] ?? -1)).slice(0, 5)
    const read = { ...p_position, ...Object.fromEntries(page.map((row) => [row.attempt_id, row.seq_to])) }
    const ends = Object.entries(this.logs).map(([attempt_id, log]) => ({ attempt_id, seq: null, at_end: this.#atEnd(attempt_id, log, read) }))
    const all = ends.map((end) => end.at_end)
    if (!this.ended_at || all.some((end) => end === null || end === 'archived')) return [...page, ...ends.filter((end) => end.at_end)]
    return [...page, { attempt_id: null, seq: null, at_end: all.includes('incomplete') ? 'incomplete' : 'complete' }]
  }

  #atEnd(id, { log_end, log_state }, read) {
    const at = read[id] ?? -1
    if (log_end !== null && at >= log_end) return 'complete'
    if (log_state === 'open' || this.stored.some((row) => row.attempt_id === id && row.seq > at)) return null
    return log_state === 'complete' ? 'archived' : 'incomplete'
  }
}

for (let seed = 1; seed <= 100; seed += 1) {
  test(`a log is shown to its end, whatever is lost, doubled, late or away for a while: seed ${seed}`, async () => {
    const dice = random(seed)
    const world = new World()
    const rows = stored('a', 40, dice)
    const loss = dice()
    let ms = 0
    for (const row of rows) {
      world.at((ms += dice() * 1500), () => world.store(row))
      for (let times = Math.floor(dice() * 3); times > 0; times -= 1) {
        const heard = dice() < 0.1 ? { ...row, log_chunk: undefined } : row
        if (dice() >= loss) world.at(ms + dice() * 1000, () => world.event(heard))
      }
      if (dice() < 0.1) world.at(ms + dice() * 5000, () => (world.away = !world.away))
    }
    world.at(ms + 6000, () => (world.end(), (world.away = false)))
    const { end, shown } = await world.follow()
    assert.equal(end, 'complete')
    assert.equal(texts(shown), texts(rows))
    assert.equal(world.channels, 0)
  })
}


test('an event is shown at once, and one that was lost is asked for soon after the next one', async () => {
  const world = new World()
  const rows = [chunk('a', 0), chunk('a', 1), chunk('a', 2)]
  world.at(500, () => (world.store(rows[0]), world.event(rows[0])))
  world.at(1000, () => (world.store(rows[1], rows[2]), world.event(rows[2])))
  const { shown } = await world.follow({ ms: 1250 })
  assert.equal(texts(shown), texts(rows))
  // Of a page with chunks the next one is asked for at once.
  assert.deepEqual(world.polls(), [0, 1250, 1250])
})

test('a tail that fails is asked again, and what events told meanwhile comes once', async () => {
  const world = new World()
  const rows = [chunk('a', 0), chunk('a', 1), chunk('a', 2)]
  world.away = true
  world.at(100, () => (world.store(rows[0]), world.event(rows[0]), world.event(rows[0])))
  world.at(200, () => world.store(rows[1]))
  world.at(7000, () => (world.store(rows[2]), world.end(), (world.away = false)))
  const { end, ms, shown } = await world.follow()
  assert.deepEqual([end, ms, texts(shown)], ['complete', 10_000, texts(rows)])
})

test('an archived log ends where the database has no more of it', async () => {
  const world = new World()
  world.store(chunk('apply', 0))
  world.logs.plan = { log_end: 7, log_state: 'complete' }
  world.end()
  const { end, ms, shown } = await world.follow()
  assert.deepEqual([end, ms, texts(shown)], ['archived', 0, 'apply 0-0\n'])
  assert.equal(world.channels, 0)
})

test('what comes behind an archived log is shown: an apply that waited for its approval', async () => {
  const world = new World()
  world.logs.plan = { log_end: 7, log_state: 'complete' }
  world.at(60_000, () => (world.logs.apply = { log_end: null, log_state: 'open' }))
  world.at(120_000, () => (world.ended_at = 'now'))
  // A finish may overtake the last rows.
  world.at(180_000, () => (world.store(chunk('apply', 0)), world.end()))
  const { end, ms, shown } = await world.follow()
  assert.deepEqual([end, ms, texts(shown)], ['archived', 180_000, 'apply 0-0\n'])
})

test('the log of a lost runner ends as incomplete', async () => {
  const world = new World()
  world.store(chunk('a', 0))
  world.logs.a.log_state = 'incomplete'
  world.end()
  const { end, shown } = await world.follow()
  assert.deepEqual([end, texts(shown)], ['incomplete', 'a 0-0\n'])
})

test('a watch is renewed twice a minute, and too many watches are no reason to stop', async () => {
  const world = new World()
  world.refuses = (name) => name === 'watch_logs' && { code: 'TD011', message: 'too many watches' }
  world.at(61_000, () => (world.store(chunk('a', 0)), world.end()))
  const { end, shown } = await world.follow()
  assert.deepEqual([end, texts(shown), world.polls('watch_logs')], ['complete', 'a 0-0\n', [0, 30_000, 60_000]])
})

test('a refusal is told with its code, and nobody follows any more', async () => {
  const world = new World()
  world.refuses = (name) => name === 'tail' && { code: 'TD002', message: 'there is no deployment d' }
  const { error } = await world.follow()
  assert.deepEqual([error.code, error.message, world.channels], ['TD002', 'there is no deployment d', 0])
})

test('whoever leaves the page ends it at once', async () => {
  const world = new World()
  const leaving = new AbortController()
  world.at(1000, () => leaving.abort())
  const { end, ms } = await world.follow({ signal: leaving.signal })
  assert.deepEqual([end, ms, world.channels], [undefined, 1000, 0])
})
