// Publishes one event with one call of Redis:
//
//	go run ./redis CHANNEL DATA [TYPE [KEY]]
//
// REDIS_URL names the Redis.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log"
	mathrand "math/rand"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const attempts = 6

// publish publishes an event and returns its id. The key makes every repetition harmless.
func publish(client *redis.Client, channel, event, data, key string) (string, error) {
	keys := []string{"sse:state", "sse:history:" + channel, "sse:idem:" + channel + "|" + key}
	for attempt := 1; ; attempt++ {
		id, err := client.FCall(context.Background(), "sse_publish", keys, data, event).Text()
		// An error of the function itself, such as SSEINVALID, says that nothing was published.
		if err == nil || strings.HasPrefix(err.Error(), "SSE") || attempt == attempts {
			return id, err
		}
		backoff := 100 * time.Millisecond << attempt
		time.Sleep(backoff/2 + time.Duration(mathrand.Int63n(int64(backoff))))
	}
}

func main() {
	address := os.Getenv("REDIS_URL")
	if address == "" {
		address = "redis://127.0.0.1:6379"
	}
	options, err := redis.ParseURL(address)
	if err != nil {
		log.Fatal(err)
	}
	args := append(os.Args[1:], "", "", "", "")
	channel, data, event, key := args[0], args[1], args[2], args[3]
	if key == "" {
		bytes := make([]byte, 16)
		if _, err := rand.Read(bytes); err != nil {
			log.Fatal(err)
		}
		key = hex.EncodeToString(bytes)
	}
	id, err := publish(redis.NewClient(options), channel, event, data, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id)
}
