<?php
// Publishes one event over HTTP, with PHP 8 and no extension:
//
//   php publish.php CHANNEL DATA [TYPE [KEY]]
//
// SSE_URL names the gateway, SSE_TOKEN holds a token or an API key, if the gateway wants one.

declare(strict_types=1);

const ATTEMPTS = 6;
const RETRYABLE = [429, 502, 503, 504];

/** Publishes an event and returns its id. The key makes every repetition harmless. */
function publish(string $channel, string $data, string $event = '', string $key = ''): string
{
    $key = $key !== '' ? $key : bin2hex(random_bytes(16));
    $url = (getenv('SSE_URL') ?: 'http://127.0.0.1:8080')
        . '/channels/' . rawurlencode($channel) . '?event=' . rawurlencode($event);
    for ($attempt = 1;; $attempt++) {
        [$status, $body, $wait] = post($url, $data, $key);
        if ($status === 200 && isset($body['id'])) {
            return $body['id'];
        }
        // Status 0: not reached, or no answer. It may have been published, which the key makes good.
        $again = $status === 0 || in_array($status, RETRYABLE, true);
        if (!$again || $attempt === ATTEMPTS) {
            throw new RuntimeException("$status: " . ($body['detail'] ?? 'no answer'));
        }
        usleep((int) max($wait * 1e6, 1e5 * 2 ** $attempt * (0.5 + mt_rand() / mt_getrandmax())));
    }
}

/** Sends the event once. Returns the status, the answer, and the seconds that the gateway asks for. */
function post(string $url, string $data, string $key): array
{
    $headers = ["Idempotency-Key: $key", 'Content-Type: text/plain'];
    if ($token = getenv('SSE_TOKEN')) {
        $headers[] = "Authorization: Bearer $token";
    }
    $http = ['method' => 'POST', 'header' => $headers, 'content' => $data, 'timeout' => 5, 'ignore_errors' => true];
    $answer = @file_get_contents($url, false, stream_context_create(['http' => $http]));
    if ($answer === false) {
        return [0, [], 0];
    }
    preg_match('/^HTTP\S+ (\d+)/', $http_response_header[0], $status);
    $waits = preg_grep('/^retry-after:/i', $http_response_header);
    $wait = (float) substr((string) end($waits), strlen('retry-after:'));
    return [(int) $status[1], json_decode($answer, true) ?? [], $wait];
}

try {
    echo publish(...array_slice($argv, 1)), "\n";
} catch (RuntimeException $error) {
    fwrite(STDERR, $error->getMessage() . "\n");
    exit(1);
}
