// Publishes one event over HTTP, with the standard library alone:
//
//	go run ./http CHANNEL DATA [TYPE [KEY]]
//
// SSE_URL names the gateway, SSE_TOKEN holds a token or an API key, if the gateway wants one.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	mathrand "math/rand"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const attempts = 6

var client = http.Client{Timeout: 5 * time.Second}

// refusal is an answer that no repetition changes.
type refusal struct{ error }

// publish publishes an event and returns its id. The key makes every repetition harmless.
func publish(channel, event, data, key string) (string, error) {
	for attempt := 1; ; attempt++ {
		id, wait, err := try(channel, event, data, key)
		if err == nil || errors.As(err, &refusal{}) || attempt == attempts {
			return id, err
		}
		backoff := 100 * time.Millisecond << attempt
		backoff = backoff/2 + time.Duration(mathrand.Int63n(int64(backoff)))
		time.Sleep(max(wait, backoff))
	}
}

// try sends the event once. With an error it returns how long the gateway wants us to wait.
func try(channel, event, data, key string) (string, time.Duration, error) {
	address := environment("SSE_URL", "http://127.0.0.1:8080") +
		"/channels/" + url.PathEscape(channel) + "?event=" + url.QueryEscape(event)
	request, err := http.NewRequest("POST", address, strings.NewReader(data))
	if err != nil {
		return "", 0, refusal{err}
	}
	request.Header.Set("Idempotency-Key", key)
	if token := os.Getenv("SSE_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := client.Do(request)
	if err != nil {
		// Not reached, or no answer: it may have been published, which the key makes good.
		return "", 0, err
	}
	defer answer.Body.Close()
	var body struct{ ID, Detail string }
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
		body.Detail = err.Error()
	} else if answer.StatusCode == http.StatusOK {
		return body.ID, 0, nil
	}
	err = fmt.Errorf("%s: %s", answer.Status, body.Detail)
	switch answer.StatusCode {
	case http.StatusOK, 429, 502, 503, 504:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
		return "", time.Duration(seconds) * time.Second, err
	}
	return "", 0, refusal{err}
}

func environment(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func randomKey() string {
	bytes := make([]byte, 16)
	if _, err := rand.Read(bytes); err != nil {
		log.Fatal(err)
	}
	return hex.EncodeToString(bytes)
}

func main() {
	args := append(os.Args[1:], "", "", "", "")
	channel, data, event, key := args[0], args[1], args[2], args[3]
	if key == "" {
		key = randomKey()
	}
	id, err := publish(channel, event, data, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id)
}
