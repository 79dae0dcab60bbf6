// Queues jobs that do nothing, works them off with River, and prints how many seconds that took.
//
// Settings are those of River's own benchmark: a fetch every 2 ms, up to 2,000 workers. With -mode buffered River collects
// completions and stores them together, as it does unless told otherwise; with -mode durable each job is completed by a
// transaction of its own (JobCompleteTx), before its worker returns.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const batch = 5000

type nothing struct {
	Num int `json:"num"`
}

func (nothing) Kind() string { return "nothing" }

type worker struct {
	river.WorkerDefaults[nothing]
	pool    *pgxpool.Pool
	durable bool
	done    func()
}

func (w *worker) Work(ctx context.Context, job *river.Job[nothing]) error {
	if !w.durable {
		return nil
	}
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	w.done()
	return nil
}

func main() {
	jobs := flag.Int("jobs", 10000, "jobs to work off")
	mode := flag.String("mode", "durable", "durable or buffered")
	workers := flag.Int("workers", 2000, "MaxWorkers")
	connections := flag.Int("connections", 16, "connections of the pool")
	flag.Parse()
	if err := run(*jobs, *mode == "durable", *workers, *connections); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(jobs int, durable bool, workers, connections int) error {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(os.Getenv("BENCH_DATABASE_URL"))
	if err != nil {
		return err
	}
	config.MaxConns = int32(connections)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := prepare(ctx, pool); err != nil {
		return err
	}

	var left atomic.Int64
	left.Store(int64(jobs))
	all := make(chan time.Time, 1)
	done := func() {
		if left.Add(-1) == 0 {
			all <- time.Now()
		}
	}
	client, err := newClient(pool, durable, workers, done)
	if err != nil {
		return err
	}
	if err := insert(ctx, client, jobs); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, "VACUUM (ANALYZE) river_job"); err != nil {
		return err
	}
	if !durable {
		completed, cancel := client.SubscribeConfig(&river.SubscribeConfig{ChanSize: jobs, Kinds: []river.EventKind{river.EventKindJobCompleted}})
		defer cancel()
		go func() {
			for range completed {
				done()
			}
		}()
	}

	begun := time.Now()
	if err := client.Start(ctx); err != nil {
		return err
	}
	ended := <-all
	if err := client.Stop(ctx); err != nil {
		return err
	}
	var completed int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM river_job WHERE state = 'completed'").Scan(&completed); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"jobs": completed, "seconds": ended.Sub(begun).Seconds()})
}

func newClient(pool *pgxpool.Pool, durable bool, workers int, done func()) (*river.Client[pgx.Tx], error) {
	known := river.NewWorkers()
	river.AddWorker(known, &worker{pool: pool, durable: durable, done: done})
	return river.NewClient(riverpgxv5.New(pool), &river.Config{
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		Workers:           known,
	})
}

func prepare(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	_, err = pool.Exec(ctx, "TRUNCATE river_job")
	return err
}

func insert(ctx context.Context, client *river.Client[pgx.Tx], jobs int) error {
	for first := 0; first < jobs; first += batch {
		some := make([]river.InsertManyParams, min(batch, jobs-first))
		for at := range some {
			some[at] = river.InsertManyParams{Args: nothing{Num: first + at}}
		}
		if _, err := client.InsertManyFast(ctx, some); err != nil {
			return err
		}
	}
	return nil
}
