<?php
// Publishes one event with one call of Redis, by the extension phpredis (Debian: php-redis):
//
//   php publish-redis.php CHANNEL DATA [TYPE [KEY]]
//
// REDIS_HOST and REDIS_PORT name the Redis.

declare(strict_types=1);

const ATTEMPTS = 6;

/** Publishes an event and returns its id. The key makes every repetition harmless. */
function publish(string $channel, string $data, string $event = '', string $key = ''): string
{
    $key = $key !== '' ? $key : bin2hex(random_bytes(16));
    $keys = ['sse:state', "sse:history:$channel", "sse:idem:$channel|$key"];
    for ($attempt = 1;; $attempt++) {
        try {
            return call('sse_publish', $keys, [$data, $event]);
        } catch (RedisException $error) {
            // An error of the function itself, such as SSEINVALID, says that nothing was published.
            if (str_starts_with($error->getMessage(), 'SSE') || $attempt === ATTEMPTS) {
                throw $error;
            }
            usleep((int) (1e5 * 2 ** $attempt * (0.5 + mt_rand() / mt_getrandmax())));
        }
    }
}

/** Calls a function of Redis, on a connection of its own. */
function call(string $function, array $keys, array $arguments): string
{
    $redis = new Redis();
    $redis->connect(getenv('REDIS_HOST') ?: '127.0.0.1', (int) (getenv('REDIS_PORT') ?: 6379), 5, null, 0, 5);
    $answer = $redis->rawCommand('FCALL', $function, (string) count($keys), ...$keys, ...$arguments);
    if (!is_string($answer)) {
        throw new RedisException($redis->getLastError() ?? 'no answer');
    }
    return $answer;
}

try {
    echo publish(...array_slice($argv, 1)), "\n";
} catch (RedisException $error) {
    fwrite(STDERR, $error->getMessage() . "\n");
    exit(1);
}
