<?php
// Values of Laravel's Crypt. Run by make.py.
require '/usr/share/php/Illuminate/Encryption/autoload.php';
use Illuminate\Encryption\Encrypter;

$texts = json_decode(stream_get_contents(STDIN));
$version = trim(shell_exec("dpkg-query -W -f '\${Version}' php-illuminate-encryption"));
foreach (['aes-256-cbc' => 32, 'aes-256-gcm' => 32, 'aes-128-cbc' => 16, 'aes-128-gcm' => 16] as $cipher => $size) {
    foreach ([false, true] as $serialize) {
        $key = fn ($n) => substr(hash('sha256', "laravel $n", true), 0, $size);
        $spelled = fn ($n) => 'base64:' . base64_encode($key($n));
        $value = fn ($text, $n) => [
            'form' => 'text',
            'stored' => (new Encrypter($key($n), $cipher))->encrypt($text, $serialize),
            'plaintext' => $text,
        ];
        $values = array_map(fn ($text) => $value($text, 0), $texts);
        $values[] = $value('of the old key', 1);
        echo json_encode([
            'name' => 'laravel_' . str_replace('-', '_', $cipher) . ($serialize ? '_serialized' : ''),
            'made_by' => "Illuminate Encryption $version (Debian's php-illuminate-encryption)",
            'reader' => ['format' => $serialize ? 'laravel-serialized' : 'laravel'],
            'keys' => [$spelled(0), $spelled(1)],
            'wrong_keys' => [$spelled(2)],
            'values' => $values,
        ], JSON_UNESCAPED_UNICODE), "\n";
    }
}
